# What `cmake --install` puts where: the binaries, the presets and overlays (bin/../share/dsv3ctl/configs, where the binaries look first), man
# pages and completions. Pages and completions are made by the dsv3ctl that was just built, so they cannot differ from it.
# All of it is the component `dsv3ctl`; an installed tree may be moved as a whole.
include(GNUInstallDirs)

set(made ${CMAKE_BINARY_DIR}/made)
set(completions bash-completion/completions/dsv3ctl:bash zsh/site-functions/_dsv3ctl:zsh fish/vendor_completions.d/dsv3ctl.fish:fish)
set(commands)
foreach(entry ${completions})
  string(REPLACE ":" ";" entry ${entry})
  list(GET entry 0 file)
  list(GET entry 1 shell)
  get_filename_component(folder ${made}/${file} DIRECTORY)
  list(APPEND commands COMMAND ${CMAKE_COMMAND} -E make_directory ${folder}
       COMMAND $<TARGET_FILE:dsv3ctl> completion ${shell} > ${made}/${file})
endforeach()
add_custom_command(
  OUTPUT ${made}/stamp
  COMMAND ${CMAKE_COMMAND} -E rm -rf ${made}
  COMMAND $<TARGET_FILE:dsv3ctl> man --out ${made}/man
  ${commands}
  COMMAND ${CMAKE_COMMAND} -E touch ${made}/stamp
  DEPENDS dsv3ctl
  COMMENT "Man pages and completions"
  VERBATIM)
add_custom_target(documents ALL DEPENDS ${made}/stamp)

install(TARGETS dsv3ctl dsv3d dsv3-agent dsv3-worker RUNTIME COMPONENT dsv3ctl)
if(TARGET dsv3_cuda)  # opened at run time, from the folder of the binaries
  install(TARGETS dsv3_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT dsv3ctl OPTIONAL)
endif()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/dsv3ctl/configs COMPONENT dsv3ctl
        FILES_MATCHING PATTERN "*.yaml" PATTERN "*.json" PATTERN spec EXCLUDE)
install(DIRECTORY ${made}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR} COMPONENT dsv3ctl)
foreach(shell bash-completion zsh fish)
  install(DIRECTORY ${made}/${shell} DESTINATION ${CMAKE_INSTALL_DATADIR} COMPONENT dsv3ctl)
endforeach()
